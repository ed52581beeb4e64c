INSERT INTO label_rule_changes (label, who, what, why, detail)
VALUES (%(label)s, %(who)s, %(what)s, %(why)s, %(detail)s)
