"""Other engines on the files of a bundle: which of them are here, and do they answer alike?"""
