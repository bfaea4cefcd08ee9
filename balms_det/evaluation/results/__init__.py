"""Result files: bytes -> columns -> faults -> detections."""
