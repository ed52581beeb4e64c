SELECT count(*) AS values FROM label_values WHERE label = %(label)s
