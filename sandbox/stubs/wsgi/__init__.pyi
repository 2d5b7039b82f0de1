from workers.wsgi import Options as Options
from workers.wsgi import build_environ as build_environ
from workers.wsgi import entrypoint as entrypoint
from workers.wsgi import fetch as fetch
