"""`pyodide.webloop`: the loop is asyncio's."""

import asyncio

WebLoop = asyncio.SelectorEventLoop
