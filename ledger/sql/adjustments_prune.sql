-- A day of applied ones is kept: a Redis that lost its last writes gets them again.
DELETE FROM adjustments WHERE adjustment_id <= %(adjustment_id)s AND at < now() - interval '1 day'
