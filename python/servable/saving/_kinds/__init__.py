"""One file a framework: writes a model into a directory, and says what the original answers for the example.

A file provides `convert(model, example, directory)`, of the type `servable.saving._conversion.Convert`. It is found by
the module of the model's class.
"""
