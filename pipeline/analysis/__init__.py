"""What results say: areas of their classes by zones, and what changed from one to another."""
