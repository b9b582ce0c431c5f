def Picture(data):
    return data
