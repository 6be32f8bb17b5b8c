"""What is measured on held-out tokens: `reconstruction`, and `calibration` of the serving threshold."""
