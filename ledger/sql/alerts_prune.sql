DELETE FROM alerts WHERE at < %(before)s AND window_ends_at < %(before)s
