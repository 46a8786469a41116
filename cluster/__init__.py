"""The same commands on many machines: submit them as authenticated Ray jobs. Imports nothing else of ours."""
