"""The same federated work on Galaxy Learning, on its peers and in plain loops, each in processes of its
own.
"""
