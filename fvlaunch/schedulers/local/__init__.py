"""Jobs on this machine: a detached process each, started through submitit's local executor. Nobody queues, requeues or limits them."""
