"""Questions to people: what they are asked, what they answered, and how answers become a probability."""
