#!/bin/busybox sh
# What a web server says to every request: its name. Lines of a head end as HTTP wants them to (RFC 9112, 2.2).
printf 'content-type: text/plain\r\n\r\n%s\n' "$NAME"
