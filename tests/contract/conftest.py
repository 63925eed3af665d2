"""`--backend NAME`: run the contract for one backend."""


def pytest_addoption(parser):
    parser.addoption("--backend", default=None, help="a name in CASES of test_backends.py, or its part before '-'")
