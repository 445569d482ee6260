"""What to commit for a term and what to rent by the hour: the exact search behind advice on reservations.

The demand is a series of periods; the same fleets serve a period's mix in proportion to its rate, so that
each mix is a cone of fleets (`serving`). A purchase costs its price in every period; on top the cheapest
fleet is rented that serves with it. `purchase` finds the best one, with a proof or a gap.
"""
