"""What `view` shows in the browser of this machine: runs, and trainings while they go on."""
