"""What a run leaves behind: its folder, checkpoints, log, table and curves."""
