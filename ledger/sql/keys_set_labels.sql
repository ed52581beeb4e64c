UPDATE keys
   SET owner = %(owner)s, team = %(team)s, agent = %(agent)s, workload = %(workload)s, customer = %(customer)s,
       labels = %(labels)s
 WHERE key_id = %(key_id)s
