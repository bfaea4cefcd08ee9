"""Programs made of the other rooms: calibration, imprinting, prediction, the quickstart."""
