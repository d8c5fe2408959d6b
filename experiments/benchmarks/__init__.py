"""What does it cost? Speed as ratios taken in one run, against a peer from pip."""
