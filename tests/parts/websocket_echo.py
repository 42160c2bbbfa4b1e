"""Echoes WebSocket messages, as they came. Usage: websocket_echo.py ADDRESS PORT"""
import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    # Its pings every 20 s would come between the echoes, where a client is slow.
    async with serve(echo, sys.argv[1], int(sys.argv[2]), max_size=None, ping_interval=None):
        print("listening", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
