"""The retraining service: is a new version needed, is it better, may it go live?"""
