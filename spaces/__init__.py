"""What can be built, and how one network is turned into another without losing what it learned."""
