"""The training run: `python -m onepass.demo` trains one network with torch's Adam and with ours."""
