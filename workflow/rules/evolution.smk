STUDIES.append("evolution")
# Tables that the claims are measured from: {name: (path, hash of the code that makes it)}.
EVOLUTION_TABLES = {}
