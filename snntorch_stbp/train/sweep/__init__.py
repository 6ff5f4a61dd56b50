"""Many runs: their plan, the processes they run in, and what they say together."""
