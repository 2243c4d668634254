"""Certificates: issue our own (`issue.py`) and judge the ones we are handed (`judge.py`). Pure: time is an argument."""
