"""Jiffy's tests, one folder per room. `servers` starts real servers, `conftest` hands them to the tests."""
