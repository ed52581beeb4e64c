SELECT document FROM published_settings WHERE name = %(name)s
