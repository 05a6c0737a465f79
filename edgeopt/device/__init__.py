"""What runs on the device: installs bundles, sees that they work, runs and watches them, goes back where one fails.

    state       what a device holds and uses: a value, and the steps from one to the next
    home        the folder that holds it all, and its lock
    install     in: who signed it, whether it fits and is newer; then onto the disk, whole or not at all
    activate    a smoke test, then the switch
    start       what a process that runs the model asks for: verified, or the one before

Imports neither torch nor onnx, and runs on Python 3.10.
"""
