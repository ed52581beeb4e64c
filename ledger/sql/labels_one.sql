SELECT label, required, closed FROM label_rules WHERE label = %(label)s
