"""One set of nodes that serves a hundred jobs: do they all settle, and does anything grow for ever?"""
