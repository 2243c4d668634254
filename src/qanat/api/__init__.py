"""The control plane's nouns as frozen types, and the clients that fetch them."""
