#!/bin/sh
# CPython (asyncio), seen 2026-11-28 with 3.10.13, 3.11.7, 3.12.1 and 3.13.0 on Linux.
# What one would expect: when what makes a server's protocols raises, the error goes to the loop's exception handler, as
# everything does that is raised in a callback, and the connection is closed.
# What happens: the connection is closed as its socket is freed, and nobody is told, neither the handler nor the log, unless
# the loop runs in debug mode. A server whose factory is broken looks like one that hangs up on purpose: a test of ours that
# waited for a server to hang up passed for this reason, and not for the one that it was written for.
# Below: a factory that raises, without and with debug mode.
# Seen: debug False: hung up on True, the handler was told 0 times
#       debug True: hung up on False, the handler was told 1 times (and holds what was raised, and by that the socket)
set -eu
script='
import asyncio


async def ask(debug):
    told = []
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    server = await loop.create_server(lambda: 1 / 0, "127.0.0.1")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.wait([asyncio.ensure_future(reader.read())], timeout=1)
    print(f"debug {debug}: hung up on {reader.at_eof()}, the handler was told {len(told)} times")
    writer.close()
    server.close()


for debug in (False, True):
    asyncio.run(ask(debug))
'
seen=$(python3 -W ignore -c "$script")
echo "$seen"
[ "$seen" = "debug False: hung up on True, the handler was told 0 times
debug True: hung up on False, the handler was told 1 times" ]
