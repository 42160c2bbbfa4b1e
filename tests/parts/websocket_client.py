"""Sends WebSocket messages of many sizes, expects each back, and closes. Usage: websocket_client.py URL COUNT [ADDRESS CA]

For wss: the address where the URL's host is, and who vouches for it.
"""
import asyncio
import ssl
import sys

from websockets.asyncio.client import connect


async def main():
    more = {}
    if len(sys.argv) > 3:
        more = {"host": sys.argv[3], "ssl": ssl.create_default_context(cafile=sys.argv[4])}
    async with connect(sys.argv[1], max_size=None, **more) as connection:
        for number in range(int(sys.argv[2])):
            size = (number * 7919) % 100_000
            message = ("%d " % number).ljust(size, "x") if number % 2 else bytes([number % 256]) * size
            await connection.send(message)
            if await connection.recv() != message:
                sys.exit(f"message {number} came back as another one")
    print("closed with", connection.close_code, flush=True)


asyncio.run(asyncio.wait_for(main(), 60))
