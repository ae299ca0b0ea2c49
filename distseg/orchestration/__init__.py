"""What starts processes: the plan, the jobs, the pipeline. The only place with subprocess,
os.environ and GPU numbers."""
