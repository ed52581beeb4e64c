SELECT label, required, closed,
       ARRAY(SELECT value FROM label_values AS v WHERE v.label = r.label AND v.allowed ORDER BY value) AS allowed,
       ARRAY(SELECT value FROM label_values AS v WHERE v.label = r.label AND NOT v.allowed ORDER BY value) AS forbidden
  FROM label_rules AS r
 ORDER BY label
