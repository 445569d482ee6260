"""What to commit for a term and what to rent by the hour: the exact search behind advice on reservations.

A question (`question.py`) holds the demand in periods, the fleets that serve each mix of sizes in proportion to
its rate (`cone.py`, `serving.py`), what may be bought, and scenarios of demand and prices. A purchase costs the
same in all of them; beside it the cheapest fleet is rented in every period (`tariff.py`, `covering.py`). `search`
finds the purchase with a proof or a gap, `running` the fleets of every period with start-up and minimum run
times, `advise` the whole advice.
"""
