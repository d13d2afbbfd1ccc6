"""Many runs: what is to be trained, as jobs, and the processes that train them."""
