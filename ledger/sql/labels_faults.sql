-- What is wrong with each of these sets of labels, and what one that is in use must have beside; nothing without a rule.
SELECT place, label_fault(labels, false) AS fault, label_fault(labels, true) AS lacks
  FROM jsonb_array_elements(%(sets)s) WITH ORDINALITY AS given (labels, place)
 WHERE EXISTS (SELECT FROM label_rules)
