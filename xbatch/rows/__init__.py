"""What a row is, what it asks, and what came of it. Pure: nothing here opens, waits or imports a library's engine."""
