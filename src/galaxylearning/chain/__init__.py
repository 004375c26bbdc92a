"""Adapters to blockchains: any EVM node through web3.py, and a whole chain inside this process."""
