"""Tests of files, folders and object stores as inputs."""
