"""Blob stores that lose, flip, cut, swap and delay what they hold: is it found and put right?"""
