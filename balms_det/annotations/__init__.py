"""Annotation files in LVIS or COCO format: reading, summaries, masks, outlines, images."""
