"""What runs in a decoder's child process: PyAV, and nothing that needs Ray, torch or pyarrow."""
