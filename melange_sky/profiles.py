"""Capacity tables and estimates behind one question: what does this replica carry?"""
