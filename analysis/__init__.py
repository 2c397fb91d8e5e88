"""What the runs mean. Reads the run store and published data, never a training process."""
