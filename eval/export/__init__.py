"""Results and runs in the formats that leaderboards and other tools read."""
