"""What the engines share: requests and answers, keyed noise, drawing a token, stop strings."""
