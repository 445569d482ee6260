"""From a plan to the files that SkyPilot takes: one service per allocated option.

Reads the plan alone, never the spec; returns text. `write_folder` is the only thing that writes.
"""

from __future__ import annotations

from melange_sky.rendering.clouds import controller_note, unservable_clouds
from melange_sky.rendering.folder import MANIFEST, write_folder
from melange_sky.rendering.gateway_task import GATEWAY_FILE, render_gateway
from melange_sky.rendering.names import file_name, service_name
from melange_sky.rendering.services import (
    GATED_SECRET,
    PORT,
    launch_command,
    render_services,
    required_secrets,
    sample_documents,
    serve_command,
    service_document,
    service_documents,
    service_skeleton,
    update_command,
)

__all__ = [
    "GATED_SECRET",
    "GATEWAY_FILE",
    "MANIFEST",
    "PORT",
    "controller_note",
    "file_name",
    "launch_command",
    "render_gateway",
    "render_services",
    "required_secrets",
    "sample_documents",
    "serve_command",
    "service_document",
    "service_documents",
    "service_name",
    "service_skeleton",
    "unservable_clouds",
    "update_command",
    "write_folder",
]
